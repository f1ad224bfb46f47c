"""S3 and S3-compatible services: the storage backend, its file classes, and the presets of known services."""

try:
    import boto3 as _boto3  # noqa: F401 - imported only so that the error names the extra
    import urllib3 as _urllib3  # noqa: F401 - same
except ImportError as error:
    raise ImportError("S3Storage needs boto3: pip install 'flask-storage-profiles[s3]'") from error

from .files import S3FileBase as S3FileBase, S3Reader as S3Reader, S3Writer as S3Writer
from .presets import S3Preset as S3Preset
from .storage import S3Storage as S3Storage

__all__ = ["S3FileBase", "S3Preset", "S3Reader", "S3Storage", "S3Writer"]
