"""The web page: search and listening test in a browser."""
