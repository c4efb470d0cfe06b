-- +goose Up
CREATE TABLE objects (
    id               text COLLATE "C" NOT NULL PRIMARY KEY,
    object_type      text COLLATE "C" NOT NULL,
    workspace        text COLLATE "C" NOT NULL,
    name             text COLLATE "C" NOT NULL,
    owner            text COLLATE "C" NOT NULL,
    labels           text COLLATE "C" NOT NULL,
    payload          bytea  NOT NULL,
    resource_version bigint NOT NULL,
    revision         bigint NOT NULL,
    created_at_ms    bigint NOT NULL,
    updated_at_ms    bigint NOT NULL
);

CREATE UNIQUE INDEX objects_name_uq ON objects (object_type, workspace, name) WHERE name <> '';

-- One row. revision is the highest ever committed, which deleting objects must not lower. epoch grows whenever somebody
-- takes the right to write, and epoch_revision is the revision of that moment. compatible_from is the oldest schema
-- version whose programs may still work on these tables. The row is rewritten by every commit and so gets room.
CREATE TABLE store_meta (
    id              smallint    NOT NULL PRIMARY KEY CHECK (id = 1),
    revision        bigint      NOT NULL,
    epoch           bigint      NOT NULL,
    epoch_revision  bigint      NOT NULL,
    owner_id        text        NOT NULL,
    owner_name      text        NOT NULL,
    owner_since     timestamptz NOT NULL,
    compatible_from integer     NOT NULL
) WITH (fillfactor = 20);

INSERT INTO store_meta VALUES (1, 0, 0, 0, '', '', now(), 1);
