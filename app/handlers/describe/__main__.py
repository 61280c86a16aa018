"""`python -m app.handlers.describe FOLDER`."""

from __future__ import annotations

from app.handlers.describe_folder.command import main

main()
