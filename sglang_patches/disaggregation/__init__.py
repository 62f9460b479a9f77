"""Shared prefill across prefill and decode workers: what each role does differently from SGLang as released."""
