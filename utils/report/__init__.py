"""`python -m utils.report`: every published cell beside ours, from the committed records."""
