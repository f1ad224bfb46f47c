"""The rules of a file column as a validator of WTForms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from sqlalchemy.orm import QueryableAttribute

from .file_type import FileType
from .stored_file import FileValidationError


def file_rules(attribute: QueryableAttribute[Any]) -> Callable[[Any, Any], None]:
    """Return a validator for a form's ``FileField`` or ``MultipleFileField`` that checks the rules of a column.

    So users see the message at the field. Without it, assigning the upload to the model raises a
    :class:`FileValidationError`. A field in which no file was chosen is valid: add ``DataRequired`` if the row must
    have one.

    Args:
        attribute: The attribute of a model: ``Invoice.pdf``.

    .. code-block:: python

        class InvoiceForm(FlaskForm):
            pdf = FileField(validators=[file_rules(Invoice.pdf)])
    """
    kind = cast(FileType, cast(Any, attribute).property.columns[0].type)

    def check(_form: Any, field: Any) -> None:
        from wtforms.validators import ValidationError  # type: ignore[import-untyped]  # it has no type hints

        files = field.data if isinstance(field.data, list | tuple) else [field.data]
        try:
            for file in files:
                if file is not None:
                    kind.coerce_file(file)
        except FileValidationError as error:
            if error.code != "empty":
                raise ValidationError(str(error)) from error

    return check
