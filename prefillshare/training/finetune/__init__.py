"""`prefillshare train`: one run from a training file to a module that `prefillshare launch` accepts."""
