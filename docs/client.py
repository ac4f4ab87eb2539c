#!/usr/bin/env python3
"""Prints the routes of a running margayd: client.py [SOCKET [TABLE]]"""
import json
import socket
import sys

def ask(path, command, **args):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        connection.sendall(json.dumps({"command": command, "args": args}).encode() + b"\n")
        answer = json.loads(connection.makefile().readline())
    if answer["schema"].startswith("margay.error/"):
        sys.exit(f"{answer['code']}: {answer['message']}")
    return answer

path = sys.argv[1] if len(sys.argv) > 1 else "/run/margay/margay.sock"
table = {"table": int(sys.argv[2])} if len(sys.argv) > 2 else {}
for route in ask(path, "route show", **table)["routes"]:
    print(route["prefix"], route["type"], *(hop["via"] or hop["dev"] for hop in route["nexthops"]))
