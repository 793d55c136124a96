"""Ten public collections in small: the form of the published files, with made-up content, and the line to prepare them.

Each is written by a function that takes the folder. The content is the same everywhere: user `u` and item `i` meet if
`(3 u + i) % 5 < 3`, with the rating `1 + (u + i) % 5`, at the second `START + 1000 u + 10 i`.
"""

from __future__ import annotations

import datetime
import gzip
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

N_USERS, N_ITEMS = 9, 24  # more items than the largest cut-off of the metrics
START = 1_500_000_000
PAIRS = [(u, i) for u in range(N_USERS) for i in range(N_ITEMS) if (3 * u + i) % 5 < 3]
WORDS = (
    "Æquus",
    "Blue Night",
    'The "Glass" River',
    "Déjà Vu",
    "Échos",
    "Fjord; North",
    "Garden",
    "Høst",
    "Île",
    "Juno",
)


def word(item: int) -> str:
    """The title of an item: with quotes, separators and letters that Latin-1 and UTF-8 write differently."""
    return WORDS[item] if item < len(WORDS) else f"Item {item}"


def rating(user: int, item: int) -> int:
    """What a user gave to an item, 1 to 5."""
    return 1 + (user + item) % 5


def second(user: int, item: int) -> int:
    """When, in seconds since 1970."""
    return START + 1000 * user + 10 * item


def day(user: int, item: int, form: str) -> str:
    """The same as a text in UTC."""
    return datetime.datetime.fromtimestamp(second(user, item), datetime.UTC).strftime(form)


@dataclass(frozen=True)
class Layout:
    """A public collection.

    Attributes:
        write: makes its files in a folder.
        line: what to type after `lirdrec prepare`, in that folder, without `--output`.
        user: the id of user 2.
        item: the id of item 3.
        title: of item 3, where the files say it.
        pairs: that are left.
        n_items: that are left.
    """

    write: Callable[[Path], None]
    line: str
    user: int | str
    item: int | str
    title: str | None = None
    pairs: int = len(PAIRS)
    n_items: int = N_ITEMS


def _jsonl(path: Path, records: list[dict]) -> None:
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def movielens_100k(folder: Path) -> None:
    folder = folder / "ml-100k"
    folder.mkdir()
    rows = "".join(f"{u + 1}\t{i + 1}\t{rating(u, i)}\t{second(u, i)}\n" for u, i in PAIRS)
    (folder / "u.data").write_text(rows, newline="")
    flags = [[0] * (n % 18 + 1) + [1] + [0] * (17 - n % 18) for n in range(N_ITEMS)]
    lines = [
        f"{n + 1}|{word(n)} ({1990 + n})|01-Jan-{1990 + n}||http://us.imdb.com/M/title-exact?{n}|"
        + "|".join(map(str, flags[n]))
        for n in range(N_ITEMS)
    ]
    (folder / "u.item").write_bytes(("\n".join(lines) + "\n").encode("latin-1"))
    (folder / "u.genre").write_text("unknown|0\nAction|1\n")
    (folder / "u.user").write_text("1|24|M|technician|85711\n")
    (folder / "u1.base").write_text(rows)


def movielens_1m(folder: Path) -> None:
    folder = folder / "ml-1m"
    folder.mkdir()
    rows = "".join(f"{u + 1}::{i + 1}::{rating(u, i)}::{second(u, i)}\n" for u, i in PAIRS)
    (folder / "ratings.dat").write_text(rows)
    films = "".join(f"{n + 1}::{word(n)} ({1990 + n})::Comedy|Drama\n" for n in range(N_ITEMS))
    (folder / "movies.dat").write_bytes(films.encode("latin-1"))
    (folder / "users.dat").write_text("1::F::1::10::48067\n")


def _sha(user: int) -> str:
    return hashlib.sha1(str(user).encode()).hexdigest()


def lastfm_360k(folder: Path) -> None:
    lines = []
    for u, i in PAIRS:
        mbid = "" if i == 4 else f"{i:08x}-30e3-4ad3-8fde-8a0d7b1c5f5b"
        lines.append(f"{_sha(u)}\t{mbid}\t{word(i).lower()}\t{100 * rating(u, i)}\n")
    (folder / "usersha1-artmbid-artname-plays.tsv").write_text("".join(lines), encoding="utf-8", newline="")


def _isbn(item: int) -> str:
    return f"00{item:02}10451{'X' if item % 2 else 0}"


def book_crossing(folder: Path) -> None:
    head = '"User-ID";"ISBN";"Book-Rating"\r\n'
    rows = "".join(f'"{276725 + u}";"{_isbn(i)}";"{2 * rating(u, i)}"\r\n' for u, i in PAIRS)
    (folder / "BX-Book-Ratings.csv").write_bytes((head + rows).encode("latin-1"))
    head = '"ISBN";"Book-Title";"Book-Author";"Year-Of-Publication";"Publisher";"Image-URL-S"\r\n'
    rows = "".join(
        f'"{_isbn(n)}";"{word(n).replace(chr(34), chr(92) + chr(34))}";"A. Author";"{1990 + n}";"P &amp; Q";"http://x/{n}"\r\n'
        for n in range(N_ITEMS)
    )
    (folder / "BX-Books.csv").write_bytes((head + rows).encode("latin-1"))


def yelp(folder: Path) -> None:
    reviews = [
        {
            "review_id": f"r{u}-{i}",
            "user_id": f"-u{u}_Kx",
            "business_id": f"_b{i}--q",
            "stars": float(rating(u, i)),
            "useful": 0,
            "funny": 0,
            "cool": 0,
            "text": 'Good.\nVery "good", {really}.',
            "date": day(u, i, "%Y-%m-%d %H:%M:%S"),
        }
        for u, i in PAIRS
    ]
    _jsonl(folder / "yelp_academic_dataset_review.json", reviews)
    shops = [
        {
            "business_id": f"_b{n}--q",
            "name": word(n),
            "address": "",
            "city": "Tucson",
            "postal_code": f"0{n}711",
            "stars": 3.5,
            "review_count": n,
            "is_open": n % 2,
            "attributes": None if n == 2 else {"WiFi": "u'free'", "BikeParking": "True"},
            "categories": "Doctors, Health & Medical",
            "hours": {"Monday": "0:0-0:0"} if n % 2 else None,
        }
        for n in range(N_ITEMS)
    ]
    _jsonl(folder / "yelp_academic_dataset_business.json", shops)


def steam_users(folder: Path) -> None:
    with (folder / "australian_users_items.json").open("w", encoding="utf-8") as file:
        for u in range(N_USERS):
            items = [
                {"item_id": str(10 * i), "item_name": word(i), "playtime_forever": rating(u, i), "playtime_2weeks": 0}
                for user, i in PAIRS
                if user == u
            ]
            record = {"user_id": f"player{u}", "items_count": len(items), "steam_id": f"7656119{u}", "items": items}
            file.write(f"{record!r}\n")
        file.write(repr({"user_id": "nobody", "items_count": 0, "steam_id": "1", "items": []}) + "\n")
    with (folder / "steam_games.json").open("w", encoding="utf-8") as file:
        for n in range(N_ITEMS):
            game = {"publisher": "Kotoshiro", "genres": ["Action", "Indie"], "app_name": word(n), "id": str(10 * n)}
            file.write(
                "{"
                + ", ".join(
                    f"u'{key}': {'u' if isinstance(value, str) else ''}{value!r}" for key, value in game.items()
                )
                + "}\n"
            )


def steam_200k(folder: Path) -> None:
    lines = []
    for u, i in PAIRS:
        game = word(i).replace('"', "'")
        lines += [f"{151603712 + u},{game},purchase,1.0,0\n", f"{151603712 + u},{game},play,{rating(u, i)}.5,0\n"]
    (folder / "steam-200k.csv").write_text("".join(lines), encoding="utf-8")


def goodreads(folder: Path) -> None:
    rows = "".join(f"{u},{i},{int(rating(u, i) > 2)},{rating(u, i)},0\n" for u, i in PAIRS)
    (folder / "goodreads_interactions.csv").write_text("user_id,book_id,is_read,rating,is_reviewed\n" + rows)


def goodreads_poetry(folder: Path) -> None:
    shelves = [
        {
            "user_id": hashlib.md5(str(u).encode()).hexdigest(),
            "book_id": f"{1384 + i}",
            "review_id": f"{u}{i}",
            "is_read": True,
            "rating": rating(u, i),
            "date_added": day(u, i, "%a %b %d %H:%M:%S -0700 %Y"),
            "date_updated": "",
        }
        for u, i in PAIRS
    ]
    _jsonl(folder / "goodreads_interactions_poetry.json.gz", shelves)
    books = [
        {
            "isbn": "",
            "text_reviews_count": str(n),
            "series": [],
            "popular_shelves": [{"count": "2979", "name": "to-read"}],
            "average_rating": "3.83",
            "similar_books": ["1", "2"],
            "authors": [{"author_id": "16037549", "role": ""}],
            "description": "Poems.",
            "book_id": f"{1384 + n}",
            "title": word(n),
        }
        for n in range(N_ITEMS)
    ]
    _jsonl(folder / "goodreads_books_poetry.json.gz", books)


def retailrocket(folder: Path) -> None:
    lines = ["timestamp,visitorid,event,itemid,transactionid\n"]
    for u, i in PAIRS:
        time = 1000 * second(u, i)
        lines.append(f"{time},{257597 + u},view,{355908 + i},\n")
        if rating(u, i) > 1:
            lines.append(f"{time + 1},{257597 + u},addtocart,{355908 + i},\n")
        if rating(u, i) > 3:
            lines.append(f"{time + 2},{257597 + u},transaction,{355908 + i},{u}{i}\n")
    (folder / "events.csv").write_text("".join(lines))


def handm(folder: Path) -> None:
    lines = ["t_dat,customer_id,article_id,price,sales_channel_id\n"]
    for u, i in PAIRS:
        who = hashlib.sha256(str(u).encode()).hexdigest()
        lines.append(f"{day(u, i, '%Y-%m-%d')},{who},0{663713001 + i},0.0508305084745762,2\n")
    (folder / "transactions_train.csv").write_text("".join(lines))
    head = "article_id,product_code,prod_name,product_type_name,color_group_name,detail_desc\n"
    rows = "".join(
        f'0{663713001 + n},0{663713},"{word(n).replace(chr(34), chr(34) * 2)}",Vest top,Black,"Jersey top, thin"\n'
        for n in range(N_ITEMS)
    )
    (folder / "articles.csv").write_text(head + rows, encoding="utf-8")


def otto(folder: Path) -> None:
    sessions = []
    for u in range(N_USERS):
        events = []
        for user, i in PAIRS:
            if user == u:
                events.append({"aid": 1517085 + i, "ts": 1000 * second(u, i), "type": "clicks"})
                if rating(u, i) > 1:
                    events.append({"aid": 1517085 + i, "ts": 1000 * second(u, i) + 1, "type": "carts"})
                if rating(u, i) > 3:
                    events.append({"aid": 1517085 + i, "ts": 1000 * second(u, i) + 2, "type": "orders"})
        sessions.append({"session": u, "events": events})
    _jsonl(folder / "otto-recsys-train.jsonl", sessions)


BOUGHT = sum(rating(u, i) > 1 for u, i in PAIRS)
LAYOUTS = {
    "MovieLens 100k": Layout(movielens_100k, "ml-100k", 3, 4, "Déjà Vu"),
    "MovieLens 1M": Layout(movielens_1m, "ml-1m", 3, 4, "Déjà Vu"),
    "Last.fm 360K": Layout(
        lastfm_360k,
        "usersha1-artmbid-artname-plays.tsv --no-header --columns user,mbid,item,plays",
        _sha(2),
        "déjà vu",
    ),
    "Book-Crossing": Layout(
        book_crossing,
        "BX-Book-Ratings.csv --user User-ID --item ISBN --encoding latin-1 --items BX-Books.csv --unknown-items drop",
        276727,
        _isbn(3),
        "Déjà Vu",
    ),
    "Yelp": Layout(
        yelp,
        "yelp_academic_dataset_review.json --user user_id --item business_id --timestamp date"
        " --items yelp_academic_dataset_business.json",
        "-u2_Kx",
        "_b3--q",
        "Déjà Vu",
    ),
    "Steam, users' games": Layout(
        steam_users,
        "australian_users_items.json --user user_id --item items.item_id --items steam_games.json --items-id id"
        " --unknown-items drop",
        "player2",
        "30",
        "Déjà Vu",
    ),
    "Steam, 200k": Layout(
        steam_200k,
        "steam-200k.csv --no-header --columns user,item,behavior,hours,zero --only behavior=play",
        151603714,
        "Déjà Vu",
    ),
    "Goodreads": Layout(
        goodreads,
        "goodreads_interactions.csv --user user_id --item book_id --only is_read=1",
        2,
        3,
        pairs=sum(rating(u, i) > 2 for u, i in PAIRS),
    ),
    "Goodreads by genre": Layout(
        goodreads_poetry,
        "goodreads_interactions_poetry.json.gz --user user_id --item book_id --rating rating --min-rating 3"
        " --timestamp date_added --time-format '%a %b %d %H:%M:%S %z %Y' --items goodreads_books_poetry.json.gz",
        hashlib.md5(b"2").hexdigest(),
        "1387",
        "Déjà Vu",
        pairs=sum(rating(u, i) > 2 for u, i in PAIRS),
    ),
    "RetailRocket": Layout(
        retailrocket,
        "events.csv --user visitorid --item itemid --timestamp timestamp --only event=addtocart,transaction",
        257599,
        355911,
        pairs=BOUGHT,
    ),
    "H&M": Layout(
        handm,
        "transactions_train.csv --user customer_id --item article_id --timestamp t_dat --items articles.csv",
        hashlib.sha256(b"2").hexdigest(),
        "0663713004",
        "Déjà Vu",
    ),
    "OTTO": Layout(
        otto,
        "otto-recsys-train.jsonl --user session --item events.aid --timestamp events.ts"
        " --only events.type=carts,orders",
        2,
        1517088,
        pairs=BOUGHT,
    ),
}
