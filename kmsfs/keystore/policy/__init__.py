"""Who may do what: key policies, identity policies and grants, evaluated as AWS does. Pure: no I/O."""
