"""Records and operations that cross process borders, and the codec of the wire."""
