"""Tags over the wire, with the words in which AWS refuses them."""

from typing import Any

from testkit.serving import refused


def tags(**pairs: str) -> list[dict[str, str]]:
    return [{"TagKey": name, "TagValue": value} for name, value in pairs.items()]


def test_tags_are_set_changed_listed_and_removed(us: Any, key: Any) -> None:
    name = key["KeyId"]
    us.tag_resource(KeyId=name, Tags=tags(team="blue", stage=""))
    us.tag_resource(KeyId=key["Arn"], Tags=tags(team="red"))
    listed = us.list_resource_tags(KeyId=name)
    assert (listed["Tags"], listed["Truncated"]) == (tags(stage="", team="red"), False)
    us.untag_resource(KeyId=name, TagKeys=["team", "never there"])
    assert us.list_resource_tags(KeyId=name)["Tags"] == tags(stage="")


def test_a_key_is_created_with_tags(us: Any) -> None:
    made = us.create_key(Description="tagged", Tags=tags(team="blue"))["KeyMetadata"]["KeyId"]
    assert us.list_resource_tags(KeyId=made)["Tags"] == tags(team="blue")
    before = len(us.list_keys(Limit=1000)["Keys"])
    assert refused(lambda: us.create_key(Tags=tags(a="1") * 2)) == ("TagException", "Duplicate tag keys")
    assert len(us.list_keys(Limit=1000)["Keys"]) == before


def test_tags_that_aws_refuses(us: Any, key: Any) -> None:
    name = key["KeyId"]
    twice = refused(lambda: us.tag_resource(KeyId=name, Tags=tags(a="1") + tags(a="2")))
    assert twice == ("TagException", "Duplicate tag keys")
    reserved = [{"TagKey": "AWS:team", "TagValue": ""}]
    said = ("TagException", "Tags beginning with aws: are reserved")
    assert refused(lambda: us.tag_resource(KeyId=name, Tags=reserved)) == said
    assert refused(lambda: us.untag_resource(KeyId=name, TagKeys=["aws:team"])) == said
    assert us.list_resource_tags(KeyId=name)["Tags"] == []


def test_fifty_tags_and_no_more(us: Any, key: Any) -> None:
    name = key["KeyId"]
    fifty = tags(**{f"tag{number:02}": "" for number in range(50)})
    us.tag_resource(KeyId=name, Tags=fifty)
    said = ("TagException", "Too many tags")
    assert refused(lambda: us.tag_resource(KeyId=name, Tags=tags(more=""))) == said
    assert refused(lambda: us.create_key(Tags=[*fifty, *tags(more="")])) == said
    us.tag_resource(KeyId=name, Tags=tags(tag00="changed"))
    assert len(us.create_key(Tags=fifty)["KeyMetadata"]["KeyId"]) == 36

    pages = list(
        us.get_paginator("list_resource_tags").paginate(KeyId=name, PaginationConfig={"PageSize": 20})
    )
    assert [len(page["Tags"]) for page in pages] == [20, 20, 10]
    marker = us.list_resource_tags(KeyId=name, Limit=1)["NextMarker"]
    us.untag_resource(KeyId=name, TagKeys=["tag00"])  # the one that the marker names
    rest = us.list_resource_tags(KeyId=name, Marker=marker)["Tags"]
    assert rest == fifty[1:]
    other = us.create_key()["KeyMetadata"]["KeyId"]
    foreign = refused(lambda: us.list_resource_tags(KeyId=other, Marker=marker))
    assert foreign[0] == "InvalidMarkerException"
