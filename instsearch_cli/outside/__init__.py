"""Files that somebody else made, pictures and indexes aside: read within bounds, never as code."""
