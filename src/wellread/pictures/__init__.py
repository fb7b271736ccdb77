"""Pictures of passages and questions: their bytes by id, and what an image encoder sees in them, computed once.

store     bytes by id in a folder that can grow, memory-mapped
features  the image encoder's features of every picture of a folder, resumable
looks     features -> one vector per picture, to compare pictures by
sheet     question, answer and entries as one image file
folder    Pictures: features of pictures by id or file, stored ones where there are any
"""

from wellread.pictures.features import FeatureReport, build_features
from wellread.pictures.folder import Pictures
from wellread.pictures.store import PictureStore, PictureWriter, open_image

__all__ = ["FeatureReport", "PictureStore", "PictureWriter", "Pictures", "build_features", "open_image"]
