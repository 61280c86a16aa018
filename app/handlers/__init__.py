"""The handlers that ship with the product: what `TASK_MODULES=app.handlers` allows to run.

    describe_image     alt text and facts of a picture           app.handlers.describe
    generate_captions  a row of a legacy caption queue           app.handlers.captions
    http_request       a webhook                                 app.handlers.http_request
    test.*             tasks for trying out and testing          app.handlers.testing

Importing this package imports every module of `SHIPPED_MODULES`, which declares their handlers.
"""

from __future__ import annotations

from app.handlers import captions, describe, http_request, testing

SHIPPED_MODULES = (captions.__name__, describe.__name__, http_request.__name__, testing.__name__)

__all__ = ["SHIPPED_MODULES"]
