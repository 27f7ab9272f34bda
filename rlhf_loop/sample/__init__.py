"""Sample data to try the loop with: 50 health questions, four answers each, rated. A sample, not medical advice.

For each question there is a good answer, an incomplete one, one that misses the point and one that is wrong, rated as a
careful expert would rate them. Written for this project. The wrong answers are wrong on purpose.

`SAMPLES` has a smaller one in German, too: 16 questions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

RATINGS_FILE = Path(__file__).with_name("ratings.jsonl")

#: A question that is not among the rated ones, its candidates in the order in which a search might return them.
QUESTION = "My daughter hit her head at handball and felt dizzy for a while. When can she play again?"
CANDIDATES = (
    {
        "text": "Handball is a fast indoor sport for two teams of seven. Head contact is most frequent for pivots and "
        "goalkeepers, and most clubs now teach safer blocking from the youth teams on.",
        "source": "sample",
    },
    {
        "text": "She can play again the next day if the dizziness has gone. A concussion without loss of consciousness "
        "leaves no trace in the brain, and training on helps to clear the head.",
        "source": "sample",
    },
    {
        "text": "Dizziness has many causes, among them low blood pressure, inner ear trouble, dehydration and some "
        "medicines. Drinking enough and standing up slowly helps in most cases.",
        "source": "sample",
    },
    {
        "text": "Dizziness after a blow to the head is a sign of concussion, so she should not play again that day. "
        "After a day or two of relative rest she can return step by step: light exercise, training without contact, "
        "then full training, each step at least a day and only while she has no symptoms. A doctor should clear her "
        "before a match. Vomiting, growing headache, drowsiness or confusion need emergency care at once.",
        "source": "sample",
    },
)


@dataclass(frozen=True, slots=True)
class Sample:
    """Rated answers in one language, and a question that is not among them, with candidates."""

    ratings_file: Path
    question: str
    candidates: tuple[Mapping[str, str], ...]


#: By the code of the language.
SAMPLES = {
    "en": Sample(RATINGS_FILE, QUESTION, CANDIDATES),
    "de": Sample(
        RATINGS_FILE.with_name("ratings_de.jsonl"),
        "Meine Tochter hat sich beim Handball den Kopf gestoßen, und ihr war eine Weile schwindlig. Wann darf sie "
        "wieder spielen?",
        (
            {
                "text": "Handball ist ein schneller Hallensport für zwei Mannschaften mit je sieben Spielern. Am Kopf "
                "getroffen werden am häufigsten Kreisläufer und Torhüter, weshalb schon die Jugend sicheres Blocken "
                "lernt.",
                "source": "sample",
            },
            {
                "text": "Sie kann am nächsten Tag wieder spielen, wenn der Schwindel weg ist. Eine Gehirnerschütterung "
                "ohne Bewusstlosigkeit hinterlässt keine Spuren, und Training macht den Kopf frei.",
                "source": "sample",
            },
            {
                "text": "Schwindel hat viele Ursachen, darunter niedriger Blutdruck, das Innenohr, Flüssigkeitsmangel "
                "und manche Medikamente. Meist hilft es, genug zu trinken und langsam aufzustehen.",
                "source": "sample",
            },
            {
                "text": "Schwindel nach einem Stoß gegen den Kopf ist ein Zeichen für eine Gehirnerschütterung, an "
                "diesem Tag sollte sie nicht mehr spielen. Nach ein bis zwei Tagen Ruhe kann sie stufenweise "
                "zurückkehren: leichte Bewegung, Training ohne Körperkontakt, volles Training, je mindestens einen Tag "
                "und nur ohne Beschwerden. Vor einem Spiel sollte ein Arzt zustimmen. Bei Erbrechen, stärkeren "
                "Kopfschmerzen, Schläfrigkeit oder Verwirrtheit sofort den Notruf rufen.",
                "source": "sample",
            },
        ),
    ),
}
