"""Bags without ROS: MCAP, ROS 2 (db3) and ROS 1, and the messages in them, whatever they are written in.

`reader` opens a bag (`mcap_file` and `rosbag_file` read the containers), `decoders` makes values of messages,
`messages` tables, poses and calibrations of those, `tf` chains of transforms, `pictures` frames.
"""
