"""The HTTP service: recommendations for people, feedback that is on disk and counts in the next list, a web page.

It needs the extra `serve` (FastAPI, uvicorn, SQLAlchemy, orjson). `palate.serving.app.create_app` builds the
application, `palate.serving.server.serve` runs it, and `palate serve` is the command.
"""
