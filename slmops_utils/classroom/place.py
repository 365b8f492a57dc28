"""Find the course's own folder, wherever a notebook was started."""

import os
from pathlib import Path


def go_to_course_root() -> Path:
    """Change to the course's top folder (the one that holds notebooks/ and data/) and return it.

    Raises FileNotFoundError when the current folder lies outside the course.
    """
    here = Path.cwd()
    for folder in (here, *here.parents):
        if (folder / "notebooks").is_dir() and (folder / "data" / "knowledge_base.yaml").exists():
            os.chdir(folder)
            return folder
    raise FileNotFoundError(f"{here} is not inside the course; open the notebook from the folder you cloned")
