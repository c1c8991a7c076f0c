"""Judging vision-language models: tasks, back ends, and the runner that keeps every answer."""
