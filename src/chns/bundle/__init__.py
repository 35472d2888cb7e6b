"""A model on disk: save, load, build within bounds, download, and take over from other toolkits."""
