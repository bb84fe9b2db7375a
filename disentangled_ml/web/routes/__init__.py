"""The routes: the only files that import starlette, beside app.py."""
