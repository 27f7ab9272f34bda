"""Pages for people: HTML, with a little JavaScript."""
