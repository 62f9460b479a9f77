"""Measurements of PrefillShare beside what a user would run otherwise, in one run on one machine.

Run: `prefillshare bench WORKLOAD --systems shared,vanilla-lora`. `workloads` says what is asked, `systems` who answers,
`drivers` when, `metrics` what it came to, `report` what people read; `runner` goes through the plan.
"""
