"""Stage two: a student is trained, on labels, on a teacher's answers, or on both."""
