"""The backing directory: descriptor-relative calls that follow no link, durable replacement."""
