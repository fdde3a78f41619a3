"""Images, their roles and their loaders: Lightning data modules for built-in, downloaded and your own data."""

from qcal.data.augment import CropAndFlip, random_crop, random_flip
from qcal.data.base import ImageDataModule
from qcal.data.cifar import CIFAR10, CIFAR100
from qcal.data.digits import Digits
from qcal.data.image_files import ImageFiles
from qcal.data.image_folder import ImageFolder
from qcal.data.imagenet import ImageNet
from qcal.data.images import Images, Pool, RoleDataset, finished_batch, normalize
from qcal.data.npz_images import NpzImages
from qcal.data.roles import Role, check_no_leak, split_train_pool

__all__ = [
    "CIFAR10",
    "CIFAR100",
    "CropAndFlip",
    "Digits",
    "ImageDataModule",
    "ImageFiles",
    "ImageFolder",
    "ImageNet",
    "Images",
    "NpzImages",
    "Pool",
    "Role",
    "RoleDataset",
    "check_no_leak",
    "finished_batch",
    "normalize",
    "random_crop",
    "random_flip",
    "split_train_pool",
]
