"""The trees that published loaders expect (`TREES`, data/README.md): where the files of each video are."""
import collections
from dataclasses import dataclass
from pathlib import Path

from videos.names import (
    by_name,
    folders_in,
    images_in,
    natural,
    natural_key,
    nfc,
    number_key,
    refuse_duplicates,
    sequence_name,
)

TREE = "expected tree: ROOT/SPLIT/VIDEO/{images,maps,fixation}/NAME.png, or another of those in data/README.md"


@dataclass(frozen=True)
class Tree:
    """Patterns of the folders that hold a video's frames, density maps, fixation maps and masks.

    {video} stands for the video's name; without it, a folder holds the files of several videos, told apart by their
    names. {set} stands for any of several datasets next to each other. All files are images; fixation maps may be .mat
    files or .csv files of points instead, in the same folder or in a folder maps below it. A tree has masks, or density
    and fixation maps.
    """
    used_by: str
    frames: str
    maps: str | None = None
    fixations: tuple[str, ...] = ()  # for each frame, the first that has a map
    masks: tuple[str, ...] = ()      # the same

    @property
    def annotation(self) -> str:
        """How its frames are annotated, a key of `ANNOTATIONS`."""
        return "mask" if self.masks else "density"

    def patterns(self) -> tuple[str, ...]:
        """All patterns, that of the frames first."""
        return self.frames, *([self.maps] if self.maps else []), *self.fixations, *self.masks

    def video_folders(self, name: str, folders: dict[str, Path],
                      files: dict[Path, list[Path]] | None = None) -> "VideoFolders":
        """A video's folders, given the folder that each pattern stands for; `files` as in `VideoFolders`."""
        fixations, masks = (tuple(folders[pattern] for pattern in group) for group in (self.fixations, self.masks))
        return VideoFolders(name, folders[self.frames], folders.get(self.maps), fixations, self, masks, files)


ANNOTATION = ("annotation/{video}/maps", ("annotation/{video}/fixation", "annotation/{video}/fixations"))
MASKS = ("ground-truth", "GT", "GTs")
TREES = (
    Tree("RecSal-Net, TMFI-Net, ViNet, Hollywood-2, UCF-Sports", "{video}/images", "{video}/maps",
         ("{video}/fixation", "{video}/fixations")),
    Tree("TASED-Net", "video/{video}", *ANNOTATION),
    Tree("UNISAL", "annotation/{video}/images", *ANNOTATION),
    Tree("STSANet, HD2S", "frames/{video}", *ANNOTATION),
    Tree("SalEMA", "frames/{video}", "maps/{video}", ("fixations/{video}", "fixation/{video}")),
    Tree("DIEM and the other sets of STAViS", "video_frames/{set}/{video}", "annotations/{set}/{video}/maps",
         ("annotations/{set}/{video}",)),
    Tree("test sets of SMCF and others: DAVIS, DAVSOD, FBMS, MCL, SegTrack-V2", "{video}/Frame",
         masks=tuple("{video}/" + name for name in MASKS)),
    Tree("training sets of SMCF and others, frames of all videos in one folder", "Imgs", masks=MASKS),
    Tree("training sets of SMCF and others, a folder for each video", "Imgs/{video}",
         masks=tuple(name + "/{video}" for name in MASKS)),
)


@dataclass(frozen=True)
class VideoFolders:
    """The folders of one video's frames, density maps, fixation maps and masks; they need not exist.

    Attributes:
        maps: None in a tree that has none.
        tree: the tree that they are part of.
        files: in folders that several videos share, which images of each folder are this one's; None where all are.
    """
    name: str
    frames: Path
    maps: Path | None
    fixations: tuple[Path, ...]
    tree: Tree = TREES[0]
    masks: tuple[Path, ...] = ()
    files: dict[Path, list[Path]] | None = None

    @property
    def set(self) -> str | None:
        """The set that the video belongs to, in a tree that holds several; else None."""
        return self.frames.parent.name if "{set}" in self.tree.frames else None

    def folders(self) -> tuple[Path, ...]:
        """All folders, that of the frames first."""
        return self.frames, *([self.maps] if self.maps else []), *self.fixations, *self.masks

    def images(self, folder: Path) -> list[Path]:
        """This video's images in one of its folders, in no order."""
        return images_in(folder) if self.files is None else self.files.get(folder, [])


def recognise(base: Path) -> Tree | None:
    """The tree whose top is this folder: of those with frames there, the one with most folders of annotation."""
    found = {tree: videos_in_tree(base, tree) for tree in TREES}
    having_frames = [tree for tree, videos in found.items() if any(video.images(video.frames) for video in videos)]
    annotation_folders = lambda tree: sum(folder.is_dir() for video in found[tree] for folder in video.folders()[1:])
    return max(having_frames, key=annotation_folders, default=None)


def videos_below(base: Path) -> list[VideoFolders]:
    """The videos of the tree whose top is this folder; if it belongs to no tree, its folders, taken for videos."""
    videos = videos_in_tree(base, recognise(base) or TREES[0])
    if not videos:
        raise FileNotFoundError(f"no videos in {base}: it holds no folders; {TREE}")
    return videos


def videos_in_tree(base: Path, tree: Tree) -> list[VideoFolders]:
    """The videos below a folder if it is the top of a given tree: one for each name that frames or annotation have."""
    if "{video}" not in tree.frames:
        return videos_in_shared_folders(base, tree)
    above, several, _ = tree.frames.partition("{set}")
    sets = [folder.name for folder in by_name(folders_in(base / above))] if several else [""]
    return [video for name in sets for video in videos_in_set(base, tree, name)]


def videos_in_set(base: Path, tree: Tree, name_of_set: str) -> list[VideoFolders]:
    """The videos of one set, in a tree that holds several; in any other tree, all of them."""
    below_base = {pattern: pattern.replace("{set}", name_of_set) for pattern in tree.patterns()}
    parents = {pattern: base / path.partition("{video}")[0] for pattern, path in below_base.items()}
    key = nfc if len(set(parents.values())) == 1 else number_key  # 001 in one folder may be 0001 in another
    below = {pattern: [folder.name for folder in folders_in(parent)] for pattern, parent in parents.items()}
    for names in below.values():
        refuse_duplicates(map(key, names))
    called = {pattern: {key(name): name for name in names} for pattern, names in below.items()}
    videos = []
    for video in dict.fromkeys(video for names in called.values() for video in names):
        name = next(names[video] for names in called.values() if video in names)  # frames come first
        folders = {pattern: base / below_base[pattern].replace("{video}", names.get(video, name))
                   for pattern, names in called.items()}
        videos.append(tree.video_folders(name, folders))
    return sorted(videos, key=lambda video: natural_key(video.name))


def videos_in_shared_folders(base: Path, tree: Tree) -> list[VideoFolders]:
    """The videos of folders that hold the images of several: one for each `sequence_name`.

    Images whose names are only numbers are one video, which is called like `base`.
    """
    folders = {pattern: base / pattern for pattern in tree.patterns()}
    files = collections.defaultdict(lambda: collections.defaultdict(list))  # video -> folder -> images
    for folder in folders.values():
        for path in images_in(folder):
            files[sequence_name(path.stem) or base.resolve().name][folder].append(path)
    return [tree.video_folders(name, folders, dict(files[name])) for name in natural(files)]
