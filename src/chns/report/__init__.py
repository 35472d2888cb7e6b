"""What runs came to: findings, figures, and one HTML page that shows them."""
