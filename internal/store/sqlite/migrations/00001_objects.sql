-- +goose Up
CREATE TABLE objects (
    id               TEXT    NOT NULL PRIMARY KEY,
    object_type      TEXT    NOT NULL,
    workspace        TEXT    NOT NULL,
    name             TEXT    NOT NULL,
    owner            TEXT    NOT NULL,
    labels           TEXT    NOT NULL,
    payload          BLOB    NOT NULL,
    resource_version INTEGER NOT NULL,
    revision         INTEGER NOT NULL,
    created_at_ms    INTEGER NOT NULL,
    updated_at_ms    INTEGER NOT NULL
) STRICT;

CREATE UNIQUE INDEX objects_name_uq ON objects (object_type, workspace, name) WHERE name <> '';

-- One row: the highest revision ever committed, which deleting objects must not lower.
CREATE TABLE store_meta (
    id       INTEGER NOT NULL PRIMARY KEY CHECK (id = 1),
    revision INTEGER NOT NULL
) STRICT;

INSERT INTO store_meta (id, revision) VALUES (1, 0);
