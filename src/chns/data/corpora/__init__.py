"""One module a corpus: from its folders to a manifest."""
