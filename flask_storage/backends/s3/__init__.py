"""S3 and whatever speaks its language: one storage, its files, and what it knows of other services."""

try:
    import boto3 as _boto3  # noqa: F401 - only to say what to install
    import urllib3 as _urllib3  # noqa: F401 - likewise
except ImportError as error:
    raise ImportError("S3Storage needs boto3: pip install 'flask-storage-profiles[s3]'") from error

from .files import S3FileBase as S3FileBase, S3Reader as S3Reader, S3Writer as S3Writer
from .presets import S3Preset as S3Preset
from .storage import S3Storage as S3Storage

__all__ = ["S3FileBase", "S3Preset", "S3Reader", "S3Storage", "S3Writer"]
