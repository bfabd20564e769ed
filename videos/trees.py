"""The trees that published loaders expect (`TREES`, data/README.md): where the files of each video of a folder are."""
import collections
from dataclasses import dataclass
from pathlib import Path

from videos.names import (
    by_name,
    folders_in,
    images_in,
    natural,
    natural_key,
    number_key,
    one_form,
    refuse_doubles,
    sequence_name,
)

TREE = "expected tree: ROOT/SPLIT/VIDEO/{images,maps,fixation}/NAME.png, or another of those in data/README.md"


@dataclass(frozen=True)
class Tree:
    """Where the folders of frames, density maps, fixation maps and masks of a video are, which {video} stands for.

    All are images; fixation maps may be .mat files instead, there or in a folder maps below. A tree has masks, or density and
    fixation maps. Without {video}, a folder holds the files of several videos, which their names tell apart. {set}
    stands for a folder of any name: a dataset, of several beside each other.
    """
    used_by: str
    frames: str
    maps: str | None = None
    fixations: tuple[str, ...] = ()                                        # the first that has a frame's fixations counts
    masks: tuple[str, ...] = ()                                            # and of these the first that has its mask

    @property
    def annotation(self) -> str:
        """What its frames are annotated with, a key of `ANNOTATIONS`."""
        return "mask" if self.masks else "density"

    def patterns(self) -> tuple[str, ...]:
        """All of them, frames first."""
        return self.frames, *([self.maps] if self.maps else []), *self.fixations, *self.masks

    def place(self, name: str, folders: dict[str, Path], files: dict[Path, list[Path]] | None = None) -> "VideoFolders":
        """The place of a video; folders: which one each pattern stands for; files: of `VideoFolders`."""
        fixations, masks = (tuple(folders[pattern] for pattern in patterns) for patterns in (self.fixations, self.masks))
        return VideoFolders(name, folders[self.frames], folders.get(self.maps), fixations, self, masks, files)


BESIDE = ("annotation/{video}/maps", ("annotation/{video}/fixation", "annotation/{video}/fixations"))
MASKS = ("ground-truth", "GT", "GTs")
TREES = (
    Tree("RecSal-Net, TMFI-Net, ViNet, Hollywood-2, UCF-Sports", "{video}/images", "{video}/maps", ("{video}/fixation", "{video}/fixations")),
    Tree("TASED-Net", "video/{video}", *BESIDE),
    Tree("UNISAL", "annotation/{video}/images", *BESIDE),
    Tree("STSANet, HD2S", "frames/{video}", *BESIDE),
    Tree("SalEMA", "frames/{video}", "maps/{video}", ("fixations/{video}", "fixation/{video}")),
    Tree("DIEM and the other sets of STAViS", "video_frames/{set}/{video}", "annotations/{set}/{video}/maps",
         ("annotations/{set}/{video}",)),
    Tree("test sets of SMCF and others: DAVIS, DAVSOD, FBMS, MCL, SegTrack-V2", "{video}/Frame", masks=tuple("{video}/" + name for name in MASKS)),
    Tree("training sets of SMCF and others, frames of all videos in one folder", "Imgs", masks=MASKS),
    Tree("training sets of SMCF and others, a folder for each video", "Imgs/{video}", masks=tuple(name + "/{video}" for name in MASKS)),
)


@dataclass(frozen=True)
class VideoFolders:
    """The folders of a video's frames, density maps, fixation maps and masks, which need not exist, and the tree that has them there.

    Attributes:
        maps: None in a tree that has none.
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
        """Which of the sets that a tree holds beside each other it belongs to; None where a tree holds one."""
        return self.frames.parent.name if "{set}" in self.tree.frames else None

    def folders(self) -> tuple[Path, ...]:
        """All of them, that of the frames first."""
        return self.frames, *([self.maps] if self.maps else []), *self.fixations, *self.masks

    def images(self, folder: Path) -> list[Path]:
        """This video's images in one of its folders, in no order."""
        return images_in(folder) if self.files is None else self.files.get(folder, [])


def recognise(base: Path) -> Tree | None:
    """The tree that begins in a folder: of those that have frames there, the one with most folders of annotation."""
    found = {tree: places_of(base, tree) for tree in TREES}
    folders = lambda place: sum(folder.is_dir() for folder in place.folders()[1:])
    having_frames = [tree for tree, places in found.items() if any(place.images(place.frames) for place in places)]
    return max(having_frames, key=lambda tree: sum(map(folders, found[tree])), default=None)


def places_in(base: Path) -> list[VideoFolders]:
    """The videos below a folder that a tree begins in; if none does, its folders."""
    places = places_of(base, recognise(base) or TREES[0])
    if not places:
        raise FileNotFoundError(f"no videos in {base}: it holds no folders; {TREE}")
    return places


def places_of(base: Path, tree: Tree) -> list[VideoFolders]:
    """The videos of a folder in a given tree: one for each name that frames or any annotation has."""
    if "{video}" not in tree.frames:
        return shared_places(base, tree)
    above, several, _ = tree.frames.partition("{set}")
    sets = [folder.name for folder in by_name(folders_in(base / above))] if several else [""]
    return [place for name in sets for place in places_of_set(base, tree, name)]


def places_of_set(base: Path, tree: Tree, name_of_set: str) -> list[VideoFolders]:
    """The same of one of the sets that a tree holds beside each other, of another tree all."""
    below_base = {pattern: pattern.replace("{set}", name_of_set) for pattern in tree.patterns()}
    parents = {pattern: base / path.partition("{video}")[0] for pattern, path in below_base.items()}
    key = one_form if len(set(parents.values())) == 1 else number_key      # 001 in one folder may be 0001 in another
    below = {pattern: [folder.name for folder in folders_in(parent)] for pattern, parent in parents.items()}
    for names in below.values():
        refuse_doubles(map(key, names))
    called = {pattern: {key(name): name for name in names} for pattern, names in below.items()}
    places = []
    for video in dict.fromkeys(video for names in called.values() for video in names):
        name = next(names[video] for names in called.values() if video in names)  # frames come first
        places.append(tree.place(name, {pattern: base / below_base[pattern].replace("{video}", names.get(video, name))
                                        for pattern, names in called.items()}))
    return sorted(places, key=lambda place: natural_key(place.name))


def shared_places(base: Path, tree: Tree) -> list[VideoFolders]:
    """The videos of folders that hold the images of several: one for each `sequence_name`, numbers alone are one called like `base`."""
    folders, files = {pattern: base / pattern for pattern in tree.patterns()}, collections.defaultdict(lambda: collections.defaultdict(list))
    for folder in folders.values():
        for path in images_in(folder):
            files[sequence_name(path.stem) or base.resolve().name][folder].append(path)
    return [tree.place(name, folders, dict(files[name])) for name in natural(files)]
