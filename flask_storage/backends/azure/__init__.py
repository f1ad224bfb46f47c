"""Azure Block Blob: containers reached with an account key, a shared access signature or an identity."""

try:
    import azure.storage.blob as _sdk  # noqa: F401 - only to say what is missing
except ImportError as error:
    # Any other package of Azure's makes a package "azure", so its name alone says nothing.
    raise ImportError('AzureStorage needs azure-storage-blob: pip install "flask-storage-profiles[azure]"') from error

from .files import AzureFile, AzureReader, AzureWriter
from .storage import AzureStorage

__all__ = ["AzureFile", "AzureReader", "AzureStorage", "AzureWriter"]
