"""Download published datasets and the images of a catalog. Downloads resume; files appear when they are complete."""

from lirdrec.download.connection import DownloadError, Network
from lirdrec.download.datasets import download, names
from lirdrec.download.image_urls import download_images

__all__ = ["DownloadError", "Network", "download", "download_images", "names"]
