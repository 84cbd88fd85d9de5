"""A hundred short texts, each with a question in other words: what `benchmarks.chunks` hides."""

from __future__ import annotations

NOTES: tuple[tuple[str, str], ...] = (
    (
        "Soak the chickpeas overnight, then simmer them with cumin, garlic and a bay leaf.",
        "how do I cook dried legumes",
    ),
    (
        "Rub the roast with mustard and herbs and leave it in a slow oven until evening.",
        "preparing meat for dinner",
    ),
    (
        "The dough has to rest for an hour in a warm place before the loaves are shaped.",
        "how long should bread rise",
    ),
    (
        "Whisk egg whites until stiff and fold them gently into the melted chocolate.",
        "recipe for a fluffy dessert",
    ),
    (
        "Grandmother's soup needs leeks, potatoes, cream and a pinch of nutmeg.",
        "ingredients of a vegetable broth from the family",
    ),
    (
        "Pickled cucumbers keep for months if the jars are sterilised in boiling water.",
        "preserving vegetables for the winter",
    ),
    (
        "The best espresso comes from beans that were roasted two weeks ago and ground fresh.",
        "tips for making strong coffee",
    ),
    (
        "Tomatoes ripen on the windowsill and lose their aroma in the refrigerator.",
        "where to keep fruit so that it tastes good",
    ),
    ("Stir the rice constantly and add the stock one ladle at a time.", "making a creamy risotto"),
    (
        "For the birthday we need a cake with raspberries, twelve candles and lemonade for kids.",
        "what to buy for the children's party",
    ),
    (
        "The boiler in the cellar loses pressure; the plumber comes on Thursday morning.",
        "when will the heating be repaired",
    ),
    (
        "The key of the bicycle lock hangs behind the picture in the hall.",
        "where can I find what opens my bike",
    ),
    (
        "Paint the garden fence before the rain starts in October.",
        "what to do with the wooden enclosure outside",
    ),
    (
        "Our neighbour waters the plants while we are away in July.",
        "who looks after the flowers during the holiday",
    ),
    (
        "The washing machine shakes because its feet are not level.",
        "why does the laundry appliance vibrate",
    ),
    (
        "Put a dehumidifier in the basement, for the walls have mould.",
        "fighting damp and fungus below the house",
    ),
    (
        "The chimney sweep insists on a new carbon monoxide alarm beside the stove.",
        "safety device against poisonous gas",
    ),
    (
        "Loft insulation would cut the gas bill by a third, said the energy adviser.",
        "how to spend less on warming the home",
    ),
    (
        "The roof tiles above the kitchen cracked in the hailstorm.",
        "damage from bad weather to the building",
    ),
    ("Change the filter of the kitchen hood every six months.", "maintenance of the extractor fan"),
    (
        "The dog must not eat grapes; even a few can harm its kidneys.",
        "which fruit is poisonous for pets",
    ),
    ("Our cat hides under the bed whenever it thunders.", "the animal is afraid of storms"),
    (
        "The vet recommends worm tablets for the puppies every three months.",
        "medicine against parasites for young hounds",
    ),
    (
        "Hedgehogs sleep in the heap of leaves from November on, so leave it alone.",
        "small wild animals that hibernate in the yard",
    ),
    (
        "Swallows built a nest above the stable door and have four chicks.",
        "birds that breed at the barn",
    ),
    ("The aquarium needs a third of its water changed each week.", "how to care for a fish tank"),
    (
        "Bees swarm in May; call the keeper from the village to catch them.",
        "insects that leave their hive",
    ),
    ("The mare went lame after the long ride and rests in the paddock.", "an injured horse"),
    (
        "Sheep are shorn before midsummer, and the wool goes to the mill.",
        "when does the flock lose its fleece",
    ),
    (
        "A fox took two of our hens last night through a gap in the wire.",
        "a predator killed poultry",
    ),
    (
        "The night train to Vienna leaves at 22:10 and has couchettes.",
        "travelling to Austria by rail while asleep",
    ),
    (
        "Our passports expire in spring, so apply for new ones before the flight to Canada.",
        "travel documents that are running out",
    ),
    ("The ferry to the island does not run in strong wind.", "when is there no boat"),
    ("Book the mountain hut early; it has only twenty beds.", "overnight stay on a hiking tour"),
    (
        "In Lisbon take the yellow tram up the hill to the castle.",
        "sightseeing in the capital of Portugal",
    ),
    ("The rental car must be returned with a full tank.", "rule about fuel for a hired vehicle"),
    (
        "Vaccination against yellow fever is required for the journey up the Amazon.",
        "which jab do I need for the rain forest",
    ),
    (
        "Luggage above twenty-three kilos costs extra on this airline.",
        "how heavy may my suitcase be",
    ),
    (
        "The hostel by the harbour bakes its own cinnamon rolls for breakfast.",
        "accommodation with good food in the morning",
    ),
    ("Pack a head torch, for the cave tour lasts four hours.", "equipment for going underground"),
    (
        "My left knee hurts when I run downhill; the doctor suggests strengthening the thigh.",
        "pain in the joint from jogging",
    ),
    (
        "Take the antibiotic with food and finish the whole packet.",
        "how to swallow the prescribed pills",
    ),
    (
        "Half an hour of walking each day lowers blood pressure.",
        "exercise that is good for the heart",
    ),
    (
        "No screens after nine, a cool bedroom and a fixed hour help against lying awake.",
        "advice for people with insomnia",
    ),
    ("The dentist found a cavity in the upper right molar.", "a hole in a tooth"),
    ("Pollen of birch makes my eyes itch in April.", "allergic reaction in spring"),
    (
        "The optician measured new lenses, minus two and a half on both sides.",
        "stronger glasses for short sight",
    ),
    ("Honey in warm milk soothes a sore throat.", "home remedy for a cold"),
    ("A cast for six weeks, then careful physiotherapy for the wrist.", "healing of a broken arm"),
    ("Lift heavy boxes with bent legs and a straight spine.", "how to protect my back at work"),
    (
        "The rent goes up by four percent in January according to the letter.",
        "price increase of the flat",
    ),
    (
        "Hand in the tax return by the end of July, or there is a fine.",
        "deadline for declaring income",
    ),
    (
        "The insurance pays for the stolen laptop except for a hundred euros.",
        "compensation after a theft",
    ),
    (
        "Put a tenth of the salary into the savings account on the first of each month.",
        "how much money to set aside regularly",
    ),
    (
        "The bank raised the interest on the mortgage to 4.1 percent.",
        "the loan for our house became more expensive",
    ),
    ("Cancel the magazine in time: it renews itself for a year.", "ending a subscription"),
    (
        "Shares of the wind park paid no dividend this year.",
        "investment in renewable power without profit",
    ),
    (
        "The invoice of the electrician was sent twice and paid twice; ask for it back.",
        "reclaim money that was transferred by mistake",
    ),
    ("The will is kept at the notary, and Anna has the number.", "where is the testament"),
    ("Receipts for office furniture go into the blue folder.", "how to file proofs of purchase"),
    (
        "The comet can be seen low in the west shortly after sunset.",
        "observing a heavenly body in the evening",
    ),
    (
        "Jupiter has four large moons that Galileo discovered with a simple telescope.",
        "satellites of the biggest planet",
    ),
    (
        "Glaciers in the Alps lost a tenth of their ice within two summers.",
        "effects of global warming on mountains",
    ),
    ("Salt lowers the temperature at which water freezes.", "why are winter roads strewn"),
    ("Spiders are not insects, for they have eight legs.", "to which class do arachnids belong"),
    ("The tide turns every six hours and a quarter.", "rhythm of ebb and flow of the sea"),
    (
        "Iron rusts faster beside the ocean because of the salt in the air.",
        "corrosion of metal at the coast",
    ),
    (
        "Mushrooms live together with the roots of trees and trade minerals for sugar.",
        "symbiosis of fungi and forest",
    ),
    ("Sound travels four times as fast in water as in air.", "velocity of noise below the surface"),
    (
        "A lightning rod leads the current along a copper cable into the ground.",
        "protecting a building from thunderbolts",
    ),
    (
        "The choir rehearses on Tuesdays in the old school; bring the red book of songs.",
        "when do we practise singing",
    ),
    ("Tune the guitar a half step lower for the ballad.", "changing the pitch of an instrument"),
    (
        "The orchestra plays Dvorak's ninth symphony at the end of the season.",
        "classical concert program",
    ),
    (
        "Restring the violin before the competition, and buy rosin.",
        "preparing a fiddle for a contest",
    ),
    (
        "The museum shows water colours of the lake until the end of August.",
        "an exhibition of paintings",
    ),
    (
        "The novel tells of a lighthouse keeper who loses his memory.",
        "a book about a man with amnesia",
    ),
    (
        "Two tickets for the theatre lie in the drawer: row seven, in the middle.",
        "seats for the play",
    ),
    (
        "Learn the lines of the second act by heart until the dress rehearsal.",
        "memorising a role for the stage",
    ),
    (
        "The photographer wants us to wear plain colours for the family portrait.",
        "what clothes for having our picture taken",
    ),
    (
        "The potter's wheel in the community centre is free on Saturday mornings.",
        "where can I make things of clay",
    ),
    (
        "The goalkeeper is suspended for two matches after the red card.",
        "a football player who is not allowed to play",
    ),
    ("Wax the skis for wet snow above zero degrees.", "preparing for winter sports when it thaws"),
    (
        "She swam across the lake in forty minutes and came in third.",
        "result of a contest in open water",
    ),
    ("Sharpen the skates before the ice hockey tournament.", "getting blades ready for the rink"),
    ("Climbers check each other's knots before every route.", "safety rule on the rock face"),
    (
        "The chess club meets in the library and lends clocks to beginners.",
        "a board game group for novices",
    ),
    (
        "The marathon closes the bridges over the river from eight until two.",
        "streets blocked because of a race",
    ),
    ("The tennis court must be swept after each game.", "duty of players on clay"),
    (
        "The yoga class moves to the gym hall because of the new floor.",
        "stretching course takes place elsewhere",
    ),
    ("The bicycle chain needs oil and the rear brake new pads.", "fixing my two-wheeler"),
    (
        "Prune the apple trees in February, on a day without frost.",
        "when are branches of the orchard cut",
    ),
    ("Slugs ate the lettuce; beer traps and copper tape help.", "pests in the salad bed"),
    ("Roses want sun, loamy soil and compost in March.", "how to grow thorny flowers"),
    (
        "Plant the tulip bulbs three times as deep as they are thick.",
        "how far down do spring flowers go into the earth",
    ),
    (
        "Nettles soaked in water for two weeks make good fertiliser.",
        "natural plant food made from weeds",
    ),
    ("The walnut tree drops its fruit in the last week of September.", "harvest time of nuts"),
    (
        "The interview with the new teacher is moved to Wednesday at ten.",
        "appointment with an applicant for the school",
    ),
    (
        "Minutes of the meeting: the kindergarten stays closed on Mondays.",
        "decision about day care for small children",
    ),
    (
        "The lecture on medieval trade routes takes place in the small hall.",
        "talk about merchants in the middle ages",
    ),
    (
        "Ask the caretaker for the projector, the cable and the remote control.",
        "who has the device for showing slides",
    ),
)
"""Pairs of a text and a question that it answers."""
