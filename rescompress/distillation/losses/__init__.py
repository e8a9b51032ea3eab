"""What of the teacher is imitated: one file per loss, each with ``loss(student, teacher, labels, *, knobs)``."""
