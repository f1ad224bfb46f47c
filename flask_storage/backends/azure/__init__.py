"""Azure Block Blob: containers reached with an account key, a shared access signature or an identity."""

try:
    import azure.storage.blob as _sdk  # noqa: F401 - imported only to report that it is missing
except ImportError as error:
    # Any Azure SDK package creates the package "azure", so importing "azure" alone proves nothing.
    raise ImportError('AzureStorage needs azure-storage-blob: pip install "flask-storage-profiles[azure]"') from error

from .files import AzureFile, AzureReader, AzureWriter
from .storage import AzureStorage

__all__ = ["AzureFile", "AzureReader", "AzureStorage", "AzureWriter"]
