"""Work on whole trees: what changes their keys, file by file, mounted or not."""
