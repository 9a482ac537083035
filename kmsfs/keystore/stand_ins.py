"""Where the region of a multi-region key does not answer: which related key is used in its place.

For the file system, and for blobs without a region: who names a region gets that one. A key that is there and disabled,
or whose policy refuses, is not gone round.
"""

from typing import Final

from kmsfs.errors import HsmError, KmsfsError
from kmsfs.ids import KeyArn
from kmsfs.keystore.arn import MULTI_REGION_PREFIX
from kmsfs.keystore.home import region_names
from kmsfs.keystore.model import KeyMetadata
from kmsfs.keystore.regions import Regions, find_reference

_MARK: Final = f":key/{MULTI_REGION_PREFIX}"


class StandIns(Regions):
    """Related keys for each other."""

    def serving_key(self, key_arn: str) -> KeyArn:
        """Return the ARN of the key that is used for this one: itself, or a related key if its region is not there.

        No HSM call once the metadata of the regions are read.
        """
        if _MARK not in key_arn or self._answering(key_arn) is not None:
            return KeyArn(key_arn)
        named = find_reference(key_arn).region
        for region in region_names(self.home) if named is not None else ():
            key = self._answering(key_arn.replace(f":{named}:", f":{region}:", 1))
            if key is not None and named in (*key.related_regions, *key.former_regions):
                return key.arn
        return KeyArn(key_arn)

    def _answering(self, key_arn: str) -> KeyMetadata | None:
        """Return a multi-region key if it is there and nothing is known against its token."""
        try:
            region = str(find_reference(key_arn).region)
            nearness = (self._services.get(region) or self._service(region)).nearness
        except KmsfsError:
            return None
        if nearness.unreachable:
            return None
        try:
            service, key_id = self._locate(key_arn, None)
            return service.key(key_id)
        except HsmError as error:
            nearness.note(error)
        except KmsfsError:
            pass
        return None
