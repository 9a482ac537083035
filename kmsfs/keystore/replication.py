"""Multi-region keys by reference: the part of ``Keystore`` that relates keys of several regions."""

from collections.abc import Sequence
from typing import Final

from kmsfs.errors import InvalidRequestError, RegionNotFoundError
from kmsfs.keystore import tags
from kmsfs.keystore.administration import check_description
from kmsfs.keystore.authorize import NOTHING
from kmsfs.keystore.model import KeyMetadata
from kmsfs.keystore.multi_region import NewReplica
from kmsfs.keystore.policy.context import parameter
from kmsfs.keystore.region import RegionService
from kmsfs.keystore.regions import Regions
from kmsfs.keystore.relatives import require_primary
from kmsfs.keystore.transitions import Operation, Purpose

_MOVE: Final = Purpose("UpdatePrimaryRegion", Operation.MOVE_PRIMARY)


class Replication(Regions):
    """Replicas of multi-region keys, and which of related keys is the primary."""

    def replicate_key(
        self,
        ref: str,
        to_region: str,
        *,
        description: str = "",
        key_tags: Sequence[tuple[str, str]] = (),
        policy: str | None = None,
        region: str | None = None,
    ) -> KeyMetadata:
        """Make a replica of a primary key in another region; return it."""
        check_description(description)
        wanted = NewReplica(description, tags.checked_tags(key_tags), policy)
        service, key_id = self._locate(ref, region)
        key = service.key(key_id)
        target = self.require_region(to_region)
        there = parameter("kms:ReplicaRegion", to_region)
        with self.audits.change(service, "ReplicateKey", key_id, there, replica_region=to_region):
            require_primary(key)
            with self.audits.change(target, "CreateKey", None, primary_key=key.arn) as change:
                change.key_arn = key.arn_in(target.config.region)
                return self._multi_region.replicate(key, target.config.region, wanted)

    def update_primary_region(self, ref: str, to_region: str, *, region: str | None = None) -> KeyMetadata:
        """Make the replica in another region the primary, and the primary a replica; return the new primary."""
        service, key_id = self._locate(ref, region)
        key = service.key(key_id)
        target = self.require_region(to_region)
        there = parameter("kms:PrimaryRegion", to_region)
        with self.audits.change(service, _MOVE.action, key_id, there, primary_region=to_region):
            if to_region in key.related_regions:  # whose policy of its own has a say, too
                with self.audits.refusal(_MOVE, target, key_id, NOTHING, there):
                    pass
            return self._multi_region.move_primary(key, target.config.region)

    def require_region(self, region: str) -> RegionService:
        """Return a region that a key is to be related to, or raise InvalidRequestError if it is not configured."""
        try:
            return self._fresh_service(region)
        except RegionNotFoundError as error:
            raise InvalidRequestError(f"region {region} is not configured", hint=error.hint) from error
