"""What authors of converters build on: orders, ids, stamps, tables, pictures, kinematics."""
