"""What is asked, one short file a task."""

from vea.evals.tasks.base import TASKS, Task, open_task

__all__ = ["TASKS", "Task", "open_task"]
