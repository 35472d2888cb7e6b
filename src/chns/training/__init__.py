"""A run from its settings to its model: everything of training except which batches are drawn."""
