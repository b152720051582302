"""Which grid every tensor gets, and the verb of the library."""
