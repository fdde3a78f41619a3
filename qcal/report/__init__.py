"""Records as people read them: the table on the console and the pictures."""
