"""What the notebooks need: exercise checks, figures, widgets, and the runner that executes the course headless."""
