"""What of the teacher is imitated: one file per loss, each with ``loss(student, teacher, batch, *, knobs)``.

``student`` and ``teacher`` are an ``Answer`` each; the mean over the batch comes back. ``READS`` says what the file
compares: ``logits`` of classifiers, ``maps`` of networks without classes, or ``features``, which either has. A file may
offer ``helper(student_channels, teacher_channels) -> nn.Module``, which maps the student's features to what is compared
with the teacher's, and is trained along and thrown away.
"""
