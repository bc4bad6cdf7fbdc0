"""The engine: checks every row of a file, spools the accepted ones in key order, and loads them all or nothing."""
