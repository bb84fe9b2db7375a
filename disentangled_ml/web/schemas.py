"""What the objects of the API look like, as JSON schemas (2020-12), with examples."""

from typing import Any

from disentangled_ml.web.asking import MAX_BPM, MAX_CAP, MAX_CHANGE, MAX_RESULTS, MAX_SEEDS, MAX_STEPS

Schema = dict[str, Any]
TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
WHOLE: Schema = {"type": "integer", "minimum": 0}
FLAG: Schema = {"type": "boolean"}


def reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def record(required: dict[str, Schema], optional: dict[str, Schema] | None = None, **more: Any) -> Schema:
    """Return the schema of an object with these attributes, and no others."""
    return {
        "type": "object",
        "properties": {**required, **(optional or {})},
        "required": [*required],
        "additionalProperties": False,
        **more,
    }


def listing(items: Schema, most: int | None = None, description: str | None = None) -> Schema:
    bound = {} if most is None else {"maxItems": most}
    return {"type": "array", "items": items, **bound, **({} if description is None else {"description": description})}


def by_condition(values: Schema, description: str) -> Schema:
    return {"type": "object", "additionalProperties": values, "description": description}


def maybe(schema: Schema, description: str | None = None) -> Schema:
    """Return the schema of a value that may be null."""
    either = {"anyOf": [schema, {"type": "null"}]}
    return either if description is None else {**either, "description": description}


def pair(items: Schema, description: str) -> Schema:
    return maybe({"type": "array", "items": items, "minItems": 2, "maxItems": 2}, description)


def count_to(most: int, description: str, **more: Any) -> Schema:
    return {"type": "integer", "minimum": 1, "maximum": most, "description": description, **more}


BPM: Schema = {"type": "number", "minimum": 0, "maximum": MAX_BPM}
SHARE: Schema = {"type": "number", "exclusiveMinimum": -1, "maximum": MAX_CHANGE}
WEIGHTS = maybe(
    by_condition({"type": "number", "minimum": 0}, "How much each condition counts."),
    "Conditions that are not named do not count; null: as `catalogue` says, 1 each as a rule.",
)
CAPS: dict[str, Schema] = {
    "per_artist": maybe(count_to(MAX_CAP, "Most tracks by one artist.")),
    "per_album": maybe(count_to(MAX_CAP, "Most tracks of one album.")),
}
FILTERS: dict[str, Schema] = {
    "weights": WEIGHTS,
    "k": maybe(count_to(MAX_RESULTS, "Number of results.", default=10)),
    "tempo": pair(maybe(BPM), "Slowest and fastest in BPM; null: no bound."),
    "tempo_change": pair(
        SHARE, "Least and most change of the seeds' tempo, as [-0.15, -0.05]; its half and double count as well."
    ),
    **CAPS,
    "other_artists": {**FLAG, "default": False, "description": "Leave out the artists of the seeds."},
    "most_dissimilar": {**FLAG, "default": False, "description": "Farthest first."},
    "fold_duplicates": {
        **FLAG,
        "default": True,
        "description": "Fold duplicates and versions of a track into one result.",
    },
}
SEEDS = listing(reference("Seed"), MAX_SEEDS)
SCHEMAS: dict[str, Schema] = {
    "Error": record({"error": {**TEXT, "description": "What is wrong, in one sentence."}}),
    "Description": {"type": "object", "description": "A document of OpenAPI 3.1."},
    "Health": record(
        {
            "ok": FLAG,
            "tracks": WHOLE,
            "conditions": listing(TEXT),
            "model": {**TEXT, "description": "sha256 of the checkpoint that embedded the catalogue."},
            "version": TEXT,
        }
    ),
    "Condition": record(
        {
            "name": TEXT,
            "weight": {**NUMBER, "description": "Of questions that give none."},
            "estimated": {**FLAG, "description": "Whether labels are estimated, of some tracks at least."},
        }
    ),
    "Catalogue": record(
        {
            "size": WHOLE,
            "conditions": listing(reference("Condition")),
            "has_artists": FLAG,
            "tempo": pair(NUMBER, "Slowest and fastest tempo in BPM; null where none is known."),
            "upload": record({"max_bytes": WHOLE, "max_seconds": NUMBER}),
            "listening_test": {**FLAG, "description": "Whether there is a listening test at /listen."},
            "audio_key": maybe(
                TEXT, "What addresses of recordings, /audio?track=ID&key=KEY, hold where there is a token."
            ),
        }
    ),
    "Label": record({"label": TEXT, "tracks": WHOLE}),
    "Labels": record({"labels": by_condition(listing(reference("Label")), "Of conditions that have some.")}),
    "Track": record(
        {
            "id": TEXT,
            "name": {**TEXT, "description": "What to show: the title, else the name of its file, else its id."},
            "title": maybe(TEXT),
            "artist": maybe(TEXT),
            "album": maybe(TEXT),
            "labels": by_condition({"anyOf": [listing(TEXT), NUMBER]}, "Tags, or the tempo in BPM."),
            "estimated": listing(TEXT, description="Conditions whose label is estimated, not given."),
            "audio": {**FLAG, "description": "Whether /audio?track=ID plays its recording."},
        }
    ),
    "Tracks": record(
        {
            "tracks": listing(reference("Track")),
            "next": maybe(WHOLE, "Offset of the next page, null after the last one."),
        }
    ),
    "Map": record(
        {
            "ids": listing(TEXT),
            "names": listing(TEXT, description="What to show."),
            "titles": listing(maybe(TEXT)),
            "artists": listing(maybe(TEXT)),
            "x": listing(NUMBER, description="From 0 to 1."),
            "y": listing(NUMBER, description="From 0 to 1."),
            "labels": by_condition(listing(maybe({"anyOf": [listing(TEXT), NUMBER]})), "Of each track."),
            "of": {**WHOLE, "description": "Tracks of the catalogue; of a large one some are drawn by lot."},
        }
    ),
    "MapQuestion": record(
        {"seeds": listing(reference("Seed"), MAX_STEPS + 1)},
        {"space": maybe(TEXT, "A condition; null: all together.")},
    ),
    "Places": record({"x": listing(NUMBER, description="From 0 to 1."), "y": listing(NUMBER)}),
    "Seed": {
        "description": "Id of a track, or the name of an upload.",
        "anyOf": [TEXT, record({"upload": TEXT})],
    },
    "PlainQuestion": record(
        {}, {"track": maybe(TEXT), "upload": maybe(TEXT), **FILTERS}, description="Names either a track or an upload."
    ),
    "Question": record(
        {},
        {
            "seeds": maybe(SEEDS, "What the results should be like, in each condition that has no seeds of its own."),
            "seeds_of": maybe(by_condition(SEEDS, "Seeds of single conditions.")),
            "labels": maybe(by_condition(TEXT, "A label that stands for a condition instead of seeds.")),
            "avoid": maybe(SEEDS, "What the results should not be like."),
            "avoid_of": maybe(by_condition(SEEDS, "The same for single conditions.")),
            **FILTERS,
        },
        description=f"At least one seed or label to be like, and at most {MAX_SEEDS} seeds in all.",
    ),
    "Path": record(
        {
            "a": reference("Seed"),
            "b": reference("Seed"),
            "steps": count_to(MAX_STEPS, "Number of steps, one less than of tracks."),
        },
        {"weights": WEIGHTS, **CAPS},
    ),
    "Step": record(
        {
            "track": maybe(reference("Track"), "Null: an upload, where the path begins or ends."),
            "distance": {**NUMBER, "description": "Weighted distance from the track before, 0 for the first."},
            "distances": by_condition(NUMBER, "The same in each condition, without weights."),
        }
    ),
    "PathAnswer": record({"steps": listing(reference("Step"))}),
    "Duplicate": record({"track": reference("Track"), "kind": {"enum": ["duplicate", "version"]}}),
    "Result": record(
        {
            "track": reference("Track"),
            "distance": {**NUMBER, "description": "Weighted distance from what is asked for."},
            "distances": by_condition(NUMBER, "The same in each condition, without weights."),
            "percentile": maybe(NUMBER, "How much of the catalogue, in percent, is farther away."),
            "percentiles": maybe(by_condition(NUMBER, "The same in each condition that counts.")),
            "matches": {**TEXT, "description": "What it has in common with the question, in words."},
            "duplicates": listing(reference("Duplicate"), description="That were folded into it."),
        }
    ),
    "Answer": record(
        {
            "results": listing(reference("Result"), MAX_RESULTS),
            "weights": by_condition(NUMBER, "As they counted: 0 where nothing stood for a condition."),
            "seeds": listing(reference("Track"), MAX_SEEDS, "The tracks that the question names."),
            "seed_duplicates": listing(reference("Duplicate"), description="Of the seeds, left out of the results."),
            "beyond_artist": {**WHOLE, "description": "Tracks that were skipped, for their artist had enough."},
            "beyond_album": {**WHOLE, "description": "The same of albums."},
            "without_tempo": {**WHOLE, "description": "Tracks that were left out, for their tempo is not known."},
        }
    ),
    "Playlist": record(
        {},
        {
            "form": {"enum": ["m3u8", "csv", "json"], "default": "m3u8"},
            "entries": {
                "enum": ["files", "addresses"],
                "description": "Of an m3u8: paths of files, which are told to the machine of the server alone and are the default "
                "there, or addresses of recordings on the server.",
            },
            "tracks": listing(TEXT, MAX_RESULTS + 1, "Ids."),
            "question": reference("Question"),
            "path": reference("Path"),
        },
        description="Names one of tracks, question and path.",
    ),
    "SavedResults": {"type": "object", "properties": {"results": {"type": "array"}}, "required": ["results"]},
    "Upload": record(
        {
            "upload": {**TEXT, "description": "Its name, which a seed or a question names; the last 64 are known."},
            "seconds": {**NUMBER, "description": "That are used."},
            "cut": {**FLAG, "description": "Whether it is longer, and only its beginning is used."},
            "warnings": listing(TEXT, description="What is odd about the recording."),
        }
    ),
}
EXAMPLES: dict[str, Any] = {
    "Error": {"error": "the catalogue has no such track"},
    "PlainQuestion": {"track": "T1", "weights": {"genre": 1, "mood": 0.5}, "k": 5},
    "Question": {
        "seeds": ["T1"],
        "seeds_of": {"mood": ["T2", {"upload": "U1lKk9eTjI3fIHV7Ij4VKA"}]},
        "avoid": ["T3"],
        "tempo_change": [-0.15, -0.05],
        "per_artist": 2,
    },
    "Path": {"a": "T1", "b": {"upload": "U1lKk9eTjI3fIHV7Ij4VKA"}, "steps": 8},
    "MapQuestion": {"seeds": ["T1", {"upload": "U1lKk9eTjI3fIHV7Ij4VKA"}], "space": "genre"},
    "Playlist": {"form": "m3u8", "tracks": ["T1", "T2"]},
    "Upload": {"upload": "U1lKk9eTjI3fIHV7Ij4VKA", "seconds": 12.0, "cut": False, "warnings": []},
}
