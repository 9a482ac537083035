"""Where the region of a multi-region key does not answer: which related key is used in its place.

For the file system, and for blobs without a region: who names a region gets that one. A key that is there and disabled,
or whose policy refuses, or whose region's metadata are not authentic, is not gone round.
"""

from contextlib import suppress
from typing import Final

from kmsfs.errors import HsmError, KeyNotFoundError, KmsfsError, RegionNotFoundError
from kmsfs.ids import KeyArn, Region
from kmsfs.keystore.arn import MULTI_REGION_PREFIX
from kmsfs.keystore.home import region_names
from kmsfs.keystore.model import KeyMetadata
from kmsfs.keystore.regions import Regions, find_reference

MULTI_REGION_MARK: Final = f":key/{MULTI_REGION_PREFIX}"


class StandIns(Regions):
    """Related keys for each other."""

    def serving_key(self, key_arn: str) -> KeyArn:
        """Return the ARN of the key that is used for this one: itself, or a related key if its region is not there.

        No HSM call once the metadata of the regions are read.
        """
        named = find_reference(key_arn).region if MULTI_REGION_MARK in key_arn else None
        if named is None or self._answers(key_arn):
            return KeyArn(key_arn)
        for region in region_names(self.home):
            with suppress(KmsfsError):
                key = self._answering(key_arn.replace(f":{named}:", f":{region}:", 1))
                if key is not None and self._may_stand_in(key, named):
                    return key.arn
        return KeyArn(key_arn)

    def _may_stand_in(self, key: KeyMetadata, region: Region) -> bool:
        """Whether a key was related to one of that region: it says so, and so did that one when it was last read.

        Where that one was never read, nobody but its own material opens what is under it.
        """
        there = self._services.get(region)
        told = None if there is None or there.ledger.counter is None else there.snapshot.keys.get(key.key_id)
        agreed = told is None or key.region in told.related_regions
        return agreed and region in (*key.related_regions, *key.former_regions)

    def _answers(self, key_arn: str) -> bool:
        """Whether what a multi-region key's own region says holds, and be it that nobody may believe its metadata."""
        try:
            return self._answering(key_arn) is not None
        except KmsfsError:
            return True

    def _answering(self, key_arn: str) -> KeyMetadata | None:
        """Return a multi-region key if its region has it and nothing is known against its token."""
        try:
            region = str(find_reference(key_arn).region)
            service = self._services.get(region) or self._service(region)
        except (RegionNotFoundError, HsmError):
            return None
        if service.nearness.is_away:
            return None
        try:
            located, key_id = self._locate(key_arn, None)
            return located.key(key_id)
        except HsmError as error:
            service.nearness.note(error)
        except KeyNotFoundError:
            pass
        return None
