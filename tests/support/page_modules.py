"""The modules of the page, for scripts that tests and measurements run in it."""

PAGE_MODULE = """(name) => import(document.querySelector('script[type="module"]').src.replace("main.js", name))"""
"""A function of a module's path in api/static/js: the same module that the page has loaded, at its version."""
DEFINE_PAGE_MODULE = f"window.pageModule = {PAGE_MODULE};"
"""An initial script."""
