"""Schema migrations, `versions/NNNN_verb_object.py`; `backtalk.schema` runs them."""
