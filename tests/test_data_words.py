"Words of many hospitals for the same few things: what is known is read, what is not gives None and is counted, and nothing is guessed."

import pytest

from unirg.core import StudyError
from unirg.data.studies import UNCLEAR, StudyImage, Record, image_of, understood
from unirg.data.words import Unheard, Words, age, is_posture, known_text, race, sex, split, stated, untold, view

SEEN = {
    "PA": "PA; pa erect; P.A.; p/a; p a; Chest PA; PA chest view; CHEST, PA; Thorax p.a.; Thorax-Aufnahme p.a. im Stehen; "
    "postero-anterior; POSTERO_ANTERIOR; posterior-anterior; dorsoventral; d.v.; PA 1; PA1; ChestPA; PAchest; PA (expiration); L "
    "PA; X-ray chest PA view; Röntgen Thorax PA; Rx tórax PA; single view PA; frontal PA",
    "AP": "AP; a.p.; AP supine; AP portable; AP_horizontal; AP semi-erect; portable AP chest; CHEST (PORTABLE AP); antero-posterior; "
    "anteroposterior; Thorax a.p. liegend im Bett; AP decúbito supino; AP ICU bedside; ventrodorsal",
    "FRONTAL": "frontal; Frontal view; thorax de face; de frente; AP/PA; PA or AP",
    "LATERAL": "LL; RL; lat; Lat.; LATERAL; L LATERAL; R lateral; left lateral; lt lat; Lateral view; chest lateral;"
    " LLAT; Thorax seitlich; "
    "seitl. Aufnahme; profil gauche; perfil; lateral izquierda; latero-lateral; Latéral; lateral (erect); ＬＡＴ",
    "OTHER": "RLO; LLO; LLD; RLD; LPO; RPO; LAO; RAO; AP LLD; oblique; left anterior oblique; PA oblique; decubitus; right lateral "
    "decubitus; lordotic; AP lordotic; apical lordotic; swimmers; XTABLE LATERAL; cross-table lateral; KUB; KUB abdomen; abdomen "
    "supine AP; ribs; RIBS PA; Rippen schräg; spine AP; T-spine lateral; L5 S1; LWS-Wirbelsäule; pelvis; shoulder AP; hand PA; "
    "COSTAL; scout; sternum lat; AP axial",
}


@pytest.mark.parametrize(("said", "seen"), [(word, seen) for seen, words in SEEN.items() for word in words.split("; ")])
def test_views(said, seen):
    assert view(said) == view(said.upper()) == seen


NO_VIEW = "PA AND LAT; PA/LAT; 2 views: PA and lateral; AP lateral; PA?lateral; Ebene 2; Thorax 1; R; PA of a thing; bilateral; view"


@pytest.mark.parametrize("said", [*NO_VIEW.split("; "), "Thorax in 2 Ebenen", "nonsense"])
def test_a_view_that_is_not_one_film_s_or_not_known_is_not_guessed(said):
    assert view(said) is None


@pytest.mark.parametrize("said", ["erect", "portable", "CHEST", "Thorax", "supine", "stehend", "semi-erect", "mobile chest x-ray"])
def test_a_posture_was_understood_and_says_nothing(said):
    assert view(said) is None and is_posture(said) and not is_posture("Thorax 2") and not is_posture("PA AND LAT")
    one, unheard = Record("demo", "s", images=[image_of("a.png", said)]), Unheard()
    next(understood([one], None, unheard))
    assert one.images[0].view is None and unheard.as_dict() == {}


AGES = {
    0.5: "6 months; 6 mo; 6 Monate; 006M; 26.1 weeks",
    2.25: "2 years 3 months; 2y 3m",
    34: "34; 34.0; 34,0; 034Y; 34 years; 34 years old; 34-year-old; 34 y/o; 34yo; 34 yrs; 34 Y; 34 Jahre; 34 J.; 34 ans; 34 años; aged "
    "34; age: 34; ３４",
    85: "85+; >85; 85 and over; over 85",
    89: "89; 89+; >= 89; 89 or older",
    90: "90; 90+; 90 +; > 89; >89; over 89; older than 89; ≥90; >=90; >= 90 years; 90 years or older; 90 and over; 90 or more; 90 years"
    " and older; 90 and above; 90 yrs +; >90; 90 oder älter; 90 ans et plus; at least 90; 090Y",
    None: "50-60; 20-Oct; 34M; 34F; 6m; >18; <1; 18+; adult; -3; 999Y; 121; 1950; 1950-01-31; fifty; 34 36; 34 mg",
}


@pytest.mark.parametrize(("said", "years"), [(word, years) for years, words in AGES.items() for word in words.split("; ")])
def test_ages(said, years):
    assert age(said) is None if years is None else age(said) == pytest.approx(years, abs=0.01)


RACED = {
    "white": "White; white; WHITE - RUSSIAN; White or Caucasian; Caucasian; Caucasian/White; Non-Hispanic White; White, non-Hispanic; "
    "WHITE/NOT HISPANIC; White (Non Hispanic or Latino); White - British; PORTUGUESE; WHITE - BRAZILIAN; 2106-3; White or European",
    "black": "Black; Black or African American; African American/Black; African-American; BLACK/CAPE VERDEAN; "
    "Black, not of Hispanic origin;"
    " NH Black; BLACK/CARIBBEAN ISLAND; 2054-5",
    "asian": "Asian; ASIAN - CHINESE; Asian/Pacific Islander; Asian or Pacific Islander; Asian, Non-Hispanic; South Asian; ASIAN - ASIAN "
    "INDIAN; Filipino",
    "hispanic": "Hispanic; HISPANIC/LATINO - CUBAN; Hispanic or Latino; Latina; White, Hispanic; Black Hispanic; SOUTH AMERICAN; Mexican "
    "American; Latinx",
    "other": "Other; OTHER; Some other race; Native American; American Indian or Alaska Native; Native Hawaiian or"
    " Other Pacific Islander; "
    "Pacific Islander; Two or more races; Multiracial; White and Asian; Black, White; MULTIPLE RACE/ETHNICITY; 1002-5; Mixed - "
    "White and Black Caribbean",
    None: "Unknown; Declined; PATIENT DECLINED TO ANSWER; UNABLE TO OBTAIN; Not Hispanic or Latino; Non-White; not white; Klingon; W; ; "
    "3; Refused; Middle Eastern",
}


@pytest.mark.parametrize(("said", "known"), [(word, known) for known, words in RACED.items() for word in words.split("; ")])
def test_races(said, known):
    assert race(said) == known


SEXED = {
    "female": "F; f; Female; FEMALE; female ; W; weiblich; Weibl.; femme; Féminin; femenino; mujer; donna; vrouw; woman; F - Female; "
    "Female (F); 女; Ж; ♀",
    "male": "M; m; Male; männlich; homme; masculino; hombre; varón; uomo; man; M (male); 男; м; ♂",
    None: "1; 2; 0; O; U; X; H; V; K; M/F; diverse; other; female to male; trans male; unknown",
}


@pytest.mark.parametrize(("said", "known"), [(word, known) for known, words in SEXED.items() for word in words.split("; ")])
def test_sexes(said, known):
    assert sex(said) == known


def test_splits():
    assert [split(word) for word in ("train", "Training", "val_set", "Test set", "DEV", "validate", "tuning")] == [
        "train", "train", "validation", "test", "validation", "validation", "validation",
    ]  # fmt: skip
    assert [split(word) for word in ("holdout", "train/test", "", None, "3")] == [None] * 5


NOTHING = (
    *("", " ", "nan", "NaN", "None", "NULL", "N/A", "n.a.", "NA", "unknown", "#N/A", "#NAME?", "#REF!", "#VALUE!", "#DIV/0!"),
    *("\\N", "-", "--", "–", "?", ".", "(null)", "<NA>", "not available", "k.A.", "to_generate", "\u200b", "\xa0", "&nbsp;"),
)


@pytest.mark.parametrize("said", NOTHING)
def test_ways_of_saying_nothing(said):
    assert known_text(said) is None and stated(said.rstrip(".") or None) is None


def test_what_is_dictated_stays():
    dictated = ["None.", "Unknown.", "No comparison.", "___.", "N"]
    assert list(map(stated, dictated)) == dictated


def test_a_stated_view_that_nobody_understands_is_never_the_key_film_while_there_is_another():
    unclear = StudyImage("a.png", UNCLEAR)
    cases = [
        ([StudyImage("b.png")], "b.png"),
        ([StudyImage("b.png", "AP"), StudyImage("c.png", "PA")], "c.png"),
        ([StudyImage("b.png", "LATERAL")], "a.png"),
    ]
    for others, key in cases:
        assert Record("demo", "s", images=[unclear, *others]).key_image().path == key


def test_a_persons_words_go_before_the_rules():
    words = Words(views="LATERAL: L, Thx 2 | unknown: PA?", sexes="female: 2 | male: 1", races="other: W", ages="0.5: infant | 70: old")
    films = [image_of("a.png", "thx-2"), StudyImage("b.png", "PA", "pa?"), StudyImage("c.png", "AP", "AP")]
    one = Record("demo", "s", sex=None, race="white", images=films)
    one.stated = {"sex": "2", "race": "W", "age": "INFANT"}
    next(understood([one], words, unheard := Unheard()))
    assert [film.view for film in one.images] == ["LATERAL", None, "AP"] and (one.sex, one.race, one.age) == ("female", "other", 0.5)
    assert unheard.as_dict() == {}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"views": "SIDE: thx 2"}, "names 'SIDE'; it may be PA, AP"),
        ({"sexes": "female 2"}, "names 'female 2'"),
        ({"races": "white: W | black: w"}, "'w' stands twice"),
        ({"ages": "old: senior"}, "names 'old'; it may be an age in years"),
        ({"views": "LATERAL:"}, "write it as name: word"),
    ],
)
def test_words_that_cannot_be_meant(given, message):
    with pytest.raises(StudyError, match=message):
        Words(**given)


def test_what_is_told_of_the_unheard_holds_no_text_and_no_ids():
    unheard = Unheard()
    for number in range(300):
        unheard.add("race", f"There is an effusion of the patient {number}")
        unheard.add("sex", f"mrn {1_000_000 + number}")
        unheard.add("age", f"19{number % 100:02d}-01-31")
    unheard.add("view", "x" * 100, 3)
    told = unheard.as_dict()
    assert told["race"] == {"(300 different values)": 300} and told["sex"] == {"mrn #######": 300}
    assert told["age"] == {"####-##-##": 300} and told["view"] == {"(longer than 60 characters)": 3}
    many = Unheard(at_most=10)
    for number in range(100):
        many.add("race", f"r{number}")
    assert sum(many.as_dict()["race"].values()) == 100 and len(many.counts["race"]) <= 11


def test_whoever_was_not_asked_is_not_listed():
    assert all(map(untold, ("Declined", "PATIENT REFUSED", "not reported", "unable to obtain", "U", "unknown/not specified")))
    assert not any(map(untold, ("Klingon", "W", "2")))
