"""The demo: a stack, an app that talks back, a reviewer and a measurer, all over HTTP.

It stands beside the product and uses it as a stranger would: the command line and the API, nothing else.
"""
