"""PH2, dermoscopy of the Pedro Hispano hospital: the folders of the official archive.

`PH2Dataset/PH2 Dataset images/IMD002/` holds `IMD002_Dermoscopic_Image/IMD002.bmp` and
`IMD002_lesion/IMD002_lesion.bmp`; regions of interest (`IMD002_roi`) and tables are ignored.
The data root is `PH2Dataset` itself or the folder that holds it.
"""

from functools import partial
from pathlib import Path
from typing import Literal

from medsa_model.data.images import read_pair
from medsa_model.data.pairing import by_case, check_inside, check_pairs, choose_root, first
from medsa_model.data.sample import Case
from medsa_model.data.sites_csv import read_origins
from medsa_model.errors import DataError
from medsa_model.section import Section

IMAGES = "PH2 Dataset images"


class Ph2(Section):
    """Dermoscopy with one structure, the lesion; case ids are `IMD` and digits."""

    kind: Literal["ph2"] = "ph2"
    root: Path | None = None
    """Folder `PH2Dataset`, or the one that holds it; an optional sites.csv lies in it."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the mask channels."""
        return ("lesion",)

    def open(self, root: Path | None = None) -> list[Case]:
        """All cases by case id; `root` wins over the section's.

        Raises `DataError` for missing folders, unpaired files, links out of the root, and cases
        without a site.
        """
        chosen = choose_root(root, self.root)
        places = (chosen / IMAGES, chosen / "PH2Dataset" / IMAGES)
        folder = next((place for place in places if place.is_dir()), None)
        if folder is None:
            raise DataError(
                f"PH2: no folder '{IMAGES}' in data.root; expected PH2Dataset/{IMAGES}/IMD002/... "
                "Set data.root to the unpacked PH2Dataset."
            )
        cases = sorted(path.name for path in folder.glob("IMD*") if path.is_dir())
        image_of = {case: folder / case / f"{case}_Dermoscopic_Image/{case}.bmp" for case in cases}
        mask_of = {case: folder / case / f"{case}_lesion/{case}_lesion.bmp" for case in cases}
        images = by_case(((c, path) for c, path in image_of.items() if path.is_file()), IMAGES)
        masks = by_case(((c, path) for c, path in mask_of.items() if path.is_file()), IMAGES)
        if empty := set(cases) - images.keys() - masks.keys():
            raise DataError(
                f"PH2: {len(empty)} of {len(cases)} case folders hold neither image nor mask: "
                f"{first(empty)}; expected IMD002_Dermoscopic_Image/IMD002.bmp and "
                "IMD002_lesion/IMD002_lesion.bmp in IMD002. Unpack the archive again."
            )
        check_pairs(images, masks, "IMD*_Dermoscopic_Image", "IMD*_lesion")
        check_inside(chosen, {case: (images[case], masks[case]) for case in images})
        origins = read_origins(chosen, images)
        return [
            Case(case, origins[case].patient, origins[case].site, None,
                 partial(read_pair, images[case], masks[case], case, origins[case].patient))
            for case in sorted(images)
        ]  # fmt: skip
